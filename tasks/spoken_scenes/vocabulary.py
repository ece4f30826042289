"""The words of the small world, as tables that lexicon.py reads. Columns are separated by '|'; no logic here."""

NOUNS = """
# english singular plural | german gender singular plural [accusative and dative singular] | spanish gender singular
# plural | first the category, then further classes, then the pronoun of persons. A plural '-' marks a mass noun.
teacher teachers | m lehrer lehrer | m maestro maestros | person he
doctor doctors | m arzt ärzte | m médico médicos | person he
farmer farmers | m bauer bauern bauern | m granjero granjeros | person he
baker bakers | m bäcker bäcker | m panadero panaderos | person he
king kings | m könig könige | m rey reyes | person he
queen queens | f königin königinnen | f reina reinas | person she
boy boys | m junge jungen jungen | m niño niños | person he
girl girls | n mädchen mädchen | f niña niñas | person she
mother mothers | f mutter mütter | f madre madres | person she
father fathers | m vater väter | m padre padres | person he
brother brothers | m bruder brüder | m hermano hermanos | person he
sister sisters | f schwester schwestern | f hermana hermanas | person she
friend friends | m freund freunde | m amigo amigos | person he
neighbor neighbors | m nachbar nachbarn nachbarn | m vecino vecinos | person he
dancer dancers | f tänzerin tänzerinnen | f bailarina bailarinas | person she
pilot pilots | m pilot piloten piloten | m piloto pilotos | person he
student students | m student studenten studenten | m estudiante estudiantes | person he
soldier soldiers | m soldat soldaten soldaten | m soldado soldados | person he
grandmother grandmothers | f großmutter großmütter | f abuela abuelas | person she
dog dogs | m hund hunde | m perro perros | animal
cat cats | f katze katzen | m gato gatos | animal
bird birds | m vogel vögel | m pájaro pájaros | animal
horse horses | n pferd pferde | m caballo caballos | animal
cow cows | f kuh kühe | f vaca vacas | animal
rabbit rabbits | n kaninchen kaninchen | m conejo conejos | animal
fox foxes | m fuchs füchse | m zorro zorros | animal
wolf wolves | m wolf wölfe | m lobo lobos | animal
frog frogs | m frosch frösche | f rana ranas | animal
lion lions | m löwe löwen löwen | m león leones | animal
elephant elephants | m elefant elefanten elefanten | m elefante elefantes | animal
apple apples | m apfel äpfel | f manzana manzanas | food fruit
orange oranges | f orange orangen | f naranja naranjas | food fruit
banana bananas | f banane bananen | m plátano plátanos | food fruit
tomato tomatoes | f tomate tomaten | m tomate tomates | food fruit meal
egg eggs | n ei eier | m huevo huevos | food meal
carrot carrots | f karotte karotten | f zanahoria zanahorias | food meal
cake cakes | m kuchen kuchen | m pastel pasteles | food baked
cookie cookies | m keks kekse | f galleta galletas | food baked
bread - | n brot - | m pan - | food baked
soup - | f suppe - | f sopa - | food meal hot
rice - | m reis - | m arroz - | food meal hot
cheese - | m käse - | m queso - | food
milk - | f milch - | f leche - | drink hot
tea - | m tee - | m té - | drink hot
coffee - | m kaffee - | m café - | drink hot
coat coats | m mantel mäntel | m abrigo abrigos | clothes
hat hats | m hut hüte | m sombrero sombreros | clothes
shirt shirts | n hemd hemden | f camisa camisas | clothes
shoe shoes | m schuh schuhe | m zapato zapatos | clothes
dress dresses | n kleid kleider | m vestido vestidos | clothes
scarf scarves | m schal schals | f bufanda bufandas | clothes
jacket jackets | f jacke jacken | f chaqueta chaquetas | clothes
table tables | m tisch tische | f mesa mesas | furniture
chair chairs | m stuhl stühle | f silla sillas | furniture
bed beds | n bett betten | f cama camas | furniture
lamp lamps | f lampe lampen | f lámpara lámparas | furniture
box boxes | f kiste kisten | f caja cajas | container closable
bag bags | f tasche taschen | f bolsa bolsas | container closable
basket baskets | m korb körbe | f cesta cestas | container closable
bottle bottles | f flasche flaschen | f botella botellas | container closable
cup cups | f tasse tassen | f taza tazas | container
ball balls | m ball bälle | f pelota pelotas | toy
kite kites | m drachen drachen | f cometa cometas | toy
doll dolls | f puppe puppen | f muñeca muñecas | toy
balloon balloons | m ballon ballons | m globo globos | toy
hammer hammers | m hammer hämmer | m martillo martillos | tool
knife knives | n messer messer | m cuchillo cuchillos | tool
key keys | m schlüssel schlüssel | f llave llaves | tool
camera cameras | f kamera kameras | f cámara cámaras | tool
car cars | n auto autos | m coche coches | vehicle drivable
bus buses | m bus busse | m autobús autobuses | vehicle drivable
boat boats | n boot boote | m barco barcos | vehicle
bicycle bicycles | n fahrrad fahrräder | f bicicleta bicicletas | vehicle
guitar guitars | f gitarre gitarren | f guitarra guitarras | instrument
violin violins | f geige geigen | m violín violines | instrument
piano pianos | n klavier klaviere | m piano pianos | instrument
book books | n buch bücher | m libro libros | reading closable
letter letters | m brief briefe | f carta cartas | reading closable
picture pictures | n bild bilder | m cuadro cuadros | reading
newspaper newspapers | f zeitung zeitungen | m periódico periódicos | reading
flower flowers | f blume blumen | f flor flores | plant
tree trees | m baum bäume | m árbol árboles | plant
"""

ADJECTIVES = """
# english | german [stem before an ending] | spanish masculine | kind | opposite or - | sentiment | classes it goes with
red | rot | rojo | color | - | 0 | clothes furniture container toy vehicle tool plant fruit reading
blue | blau | azul | color | - | 0 | clothes furniture container toy vehicle tool reading
green | grün | verde | color | - | 0 | clothes furniture container toy vehicle tool fruit reading
yellow | gelb | amarillo | color | - | 0 | clothes furniture container toy vehicle tool plant fruit
black | schwarz | negro | color | white | 0 | clothes furniture container vehicle tool animal instrument
white | weiß | blanco | color | black | 0 | clothes furniture container vehicle plant animal instrument
brown | braun | marrón | color | - | 0 | clothes furniture container animal instrument
gray | grau | gris | color | - | 0 | clothes furniture vehicle animal tool
golden | golden | dorado | color | - | 0 | container tool instrument
big | groß | grande | size | small | 0 | animal food clothes furniture container toy vehicle tool plant
small | klein | pequeño | size | big | 0 | animal food clothes furniture container toy vehicle tool plant
long | lang | largo | size | short | 0 | reading
short | kurz | corto | size | long | 0 | reading
old | alt | viejo | age | new | 0 | clothes furniture container toy vehicle tool instrument reading
new | neu | nuevo | age | old | 0 | clothes furniture container toy vehicle tool instrument reading
elderly | alt | viejo | age | young | 0 | person
young | jung | joven joven jóvenes jóvenes | age | elderly | 0 | person animal
beautiful | schön | hermoso | quality | ugly | 1 | clothes furniture toy plant vehicle reading animal
ugly | hässlich | feo | quality | beautiful | -1 | clothes furniture toy vehicle animal
cheap | billig | barato | quality | expensive | 0 | clothes furniture vehicle instrument tool toy
expensive | teuer teur | caro | quality | cheap | 0 | clothes furniture vehicle instrument tool toy
clean | sauber | limpio | state | dirty | 1 | clothes container furniture vehicle
dirty | schmutzig | sucio | state | clean | -1 | clothes container furniture vehicle
heavy | schwer | pesado | quality | light | 0 | container furniture tool instrument
light | leicht | ligero | quality | heavy | 0 | container furniture tool instrument
empty | leer | vacío | state | full | 0 | container
full | voll | lleno | state | empty | 0 | container
fresh | frisch | fresco | state | - | 1 | food
sweet | süß | dulce | quality | - | 1 | fruit baked
hot | heiß | caliente | state | cold | 0 | hot
cold | kalt | frío | state | hot | 0 | hot
fast | schnell | rápido | quality | slow | 0 | vehicle animal
slow | langsam | lento | quality | fast | 0 | vehicle animal
wild | wild | salvaje | quality | - | 0 | animal
rich | reich | rico | quality | poor | 0 | person
poor | arm | pobre | quality | rich | 0 | person
strong | stark | fuerte | quality | weak | 0 | person animal
weak | schwach | débil | quality | strong | 0 | person animal
friendly | freundlich | amable | quality | unfriendly | 1 | person
unfriendly | unfreundlich | antipático | quality | friendly | -1 | person
famous | berühmt | famoso | quality | - | 0 | person
tired | müde | cansado | feeling | awake | -1 |
awake | wach | despierto | feeling | tired | 0 |
happy | glücklich | feliz | feeling | sad | 1 |
sad | traurig | triste | feeling | happy | -1 |
angry | wütend | enojado | feeling | calm | -1 |
calm | ruhig | tranquilo | feeling | angry | 1 |
sick | krank | enfermo | feeling | healthy | -1 |
healthy | gesund | sano | feeling | sick | 1 |
nervous | nervös | nervioso | feeling | calm | -1 |
proud | stolz | orgulloso | feeling | - | 1 |
hungry | hungrig | hambriento | feeling | - | -1 |
busy | beschäftigt | ocupado | feeling | - | 0 |
worried | besorgt | preocupado | feeling | calm | -1 |
"""

VERBS = """
# english base third past | german infinitive third past [dative] | spanish infinitive [~ for the imperfect as past]
# | pattern | classes of the object, or 'person' or 'any' as subject | sentiment
buy buys bought | kaufen kauft kaufte | comprar | transitive | goods animal | 0
sell sells sold | verkaufen verkauft verkaufte | vender | transitive | goods animal | 0
find finds found | finden findet fand | encontrar | transitive | goods animal | 1
lose loses lost | verlieren verliert verlor | perder | transitive | small | -1
wash washes washed | waschen wäscht wusch | lavar | transitive | clothes vehicle container fruit | 0
repair repairs repaired | reparieren repariert reparierte | reparar | transitive | furniture toy vehicle instrument | 1
break breaks broke | zerbrechen zerbricht zerbrach | romper | transitive | container toy furniture | -1
paint paints painted | bemalen bemalt bemalte | pintar | transitive | furniture container toy vehicle | 0
carry carries carried | tragen trägt trug | llevar | transitive | small | 0
eat eats ate | essen isst aß | comer | transitive | food | 0
cook cooks cooked | kochen kocht kochte | cocinar | transitive | meal | 0
bake bakes baked | backen backt backte | hornear | transitive | baked | 0
drink drinks drank | trinken trinkt trank | beber | transitive | drink | 0
draw draws drew | zeichnen zeichnet zeichnete | dibujar | transitive | animal plant vehicle person | 0
open opens opened | öffnen öffnet öffnete | abrir | transitive | closable | 0
close closes closed | schließen schließt schloss | cerrar | transitive | closable | 0
steal steals stole | stehlen stiehlt stahl | robar | transitive | small animal vehicle | -1
see sees saw | sehen sieht sah | ver | transitive | person animal vehicle plant | 0
watch watches watched | beobachten beobachtet beobachtete | observar | transitive | person animal | 0
feed feeds fed | füttern füttert fütterte | alimentar | transitive | animal | 1
chase chases chased | jagen jagt jagte | perseguir | transitive | animal | -1
catch catches caught | fangen fängt fing | atrapar | transitive | animal | 0
drive drives drove | fahren fährt fuhr | conducir | transitive | drivable | 0
play plays played | spielen spielt spielte | tocar | transitive | instrument | 1
help helps helped | helfen hilft half dative | ayudar | transitive | person | 1
visit visits visited | besuchen besucht besuchte | visitar | transitive | person | 1
meet meets met | treffen trifft traf | encontrar | transitive | person | 0
follow follows followed | folgen folgt folgte dative | seguir | transitive | person animal vehicle | 0
hear hears heard | hören hört hörte | oír | transitive | person animal | 0
want wants wanted | wollen will wollte | querer ~ | stative | goods | 0
need needs needed | brauchen braucht brauchte | necesitar ~ | stative | goods | 0
love loves loved | lieben liebt liebte | adorar ~ | affect | person animal food drink instrument reading | 1
hate hates hated | hassen hasst hasste | odiar ~ | affect | person animal food drink instrument | -1
like likes liked | mögen mag mochte | gustar ~ | affect | animal food drink clothes toy reading instrument | 1
give gives gave | geben gibt gab | dar | give | small | 1
show shows showed | zeigen zeigt zeigte | mostrar | give | goods | 0
bring brings brought | bringen bringt brachte | traer | give | small | 1
send sends sent | schicken schickt schickte | enviar | give | small | 0
go goes went | gehen geht ging | ir | motion | any | 0
walk walks walked | laufen läuft lief | caminar | motion | any | 0
run runs ran | rennen rennt rannte | correr | motion | any | 0
come comes came | kommen kommt kam | venir | motion | any | 0
travel travels traveled | reisen reist reiste | viajar | motion | person | 0
sleep sleeps slept | schlafen schläft schlief | dormir | location | any | 0
wait waits waited | warten wartet wartete | esperar | location | any | 0
work works worked | arbeiten arbeitet arbeitete | trabajar | location | person | 0
play plays played | spielen spielt spielte | jugar | location | any | 1
sing sings sang | singen singt sang | cantar | location | person | 1
dance dances danced | tanzen tanzt tanzte | bailar | location | person | 1
rest rests rested | ruhen ruht ruhte | descansar | location | any | 0
laugh laughs laughed | lachen lacht lachte | reír | location | person | 1
cry cries cried | weinen weint weinte | llorar | location | person | -1
live lives lived | wohnen wohnt wohnte | vivir ~ | location | person | 0
"""

SPANISH_IRREGULAR = """
# infinitive | present: yo ella nosotros ellas | past, if irregular as well
encontrar | encuentro encuentra encontramos encuentran |
perder | pierdo pierde perdemos pierden |
cerrar | cierro cierra cerramos cierran |
ver | veo ve vemos ven | vi vio vimos vieron
perseguir | persigo persigue perseguimos persiguen | perseguí persiguió perseguimos persiguieron
conducir | conduzco conduce conducimos conducen | conduje condujo condujimos condujeron
tocar | toco toca tocamos tocan | toqué tocó tocamos tocaron
seguir | sigo sigue seguimos siguen | seguí siguió seguimos siguieron
oír | oigo oye oímos oyen | oí oyó oímos oyeron
querer | quiero quiere queremos quieren |
dar | doy da damos dan | di dio dimos dieron
mostrar | muestro muestra mostramos muestran |
traer | traigo trae traemos traen | traje trajo trajimos trajeron
enviar | envío envía enviamos envían | envié envió enviamos enviaron
ir | voy va vamos van | fui fue fuimos fueron
venir | vengo viene venimos vienen | vine vino vinimos vinieron
dormir | duermo duerme dormimos duermen | dormí durmió dormimos durmieron
jugar | juego juega jugamos juegan | jugué jugó jugamos jugaron
reír | río ríe reímos ríen | reí rio reímos rieron
tener | tengo tiene tenemos tienen |
"""

CONTINUATIONS = """
# english verb and pattern | what follows: adverb, base third past, rest; {o} stands for the pronoun of the object
buy transitive | then carry carries carried {o} home
sell transitive | then count counts counted the money
find transitive | then keep keeps kept {o}
lose transitive | then look looks looked for {o}
wash transitive | then dry dries dried {o}
repair transitive | then use uses used {o} again
break transitive | then say says said sorry
paint transitive | then show shows showed {o} to everybody
carry transitive | then rest rests rested a little
eat transitive | then ask asks asked for more
cook transitive | then eat eats ate {o}
bake transitive | then share shares shared {o} with friends
drink transitive | then ask asks asked for more
draw transitive | then show shows showed the picture to everybody
open transitive | then look looks looked inside
close transitive | then go goes went away
steal transitive | then run runs ran away
see transitive | then wait waits waited there
watch transitive | then laugh laughs laughed
feed transitive | then play plays played with {o}
chase transitive | then catch catches caught {o}
catch transitive | then free frees freed {o}
drive transitive | then stop stops stopped near the house
play transitive | then sing sings sang a song
help transitive | then drink drinks drank tea with {o}
visit transitive | then talk talks talked with {o}
meet transitive | then talk talks talked with {o}
follow transitive | then lose loses lost {o}
hear transitive | then turn turns turned around
want stative | so save saves saved money
need stative | so look looks looked for {o}
love affect | so think thinks thought of {o} often
hate affect | so avoid avoids avoided {o}
like affect | so talk talks talked about {o} often
give give | then thank thanks thanked
show give | then smile smiles smiled at
bring give | then thank thanks thanked
send give | then call calls called
go motion | then meet meets met a friend
walk motion | then rest rests rested there
run motion | then wait waits waited there
come motion | then sit sits sat down
travel motion | then take takes took pictures
sleep location | then wake wakes woke up
wait location | then go goes went home
work location | then eat eats ate dinner
play location | then rest rests rested a little
sing location | then dance dances danced
dance location | then drink drinks drank tea
rest location | then stand stands stood up
laugh location | then tell tells told a story
cry location | then feel feels felt better
live location | so know knows knew everybody there
"""

WEATHER = """
# english (a verb's three forms, or an adjective) | german third person present and past, or an adjective
# | spanish present; past | sentiment | what follows in the present; in the past
rain rains rained | regnet regnete | llueve; llovió | -1 | so people use umbrellas; so people used umbrellas
snow snows snowed | schneit schneite | nieva; nevó | 0 | so children play outside; so children played outside
cold | kalt | hace frío; hizo frío | -1 | so people stay at home; so people stayed at home
hot | heiß | hace calor; hizo calor | 0 | so people drink juice; so people drank juice
sunny | sonnig | hace sol; hizo sol | 1 | so people walk outside; so people walked outside
windy | windig | hace viento; hizo viento | -1 | so children fly kites; so children flew kites
"""

PLACES = """
# english with its preposition | german preposition gender noun | spanish gender noun | flags
in garden | in m garten | m jardín |
in kitchen | in f küche | f cocina |
at school | in f schule | f escuela | building
at market | auf m markt | m mercado |
in park | in m park | m parque |
in forest | in m wald | m bosque |
at river | an m fluss | m río |
at lake | an m see | m lago |
on beach | an m strand | f playa | far
in village | in n dorf | m pueblo | far
in city | in f stadt | f ciudad | far
at station | an m bahnhof | f estación | building
in library | in f bibliothek | f biblioteca | building
in church | in f kirche | f iglesia | building
in hospital | in n krankenhaus | m hospital | building
in museum | in n museum | m museo | building
in castle | in n schloss | m castillo | building far
on bridge | auf f brücke | m puente |
on farm | auf m bauernhof | f granja | far
on island | auf f insel | f isla | far
on mountain | auf m berg | f montaña | far
on street | auf f straße | f calle |
in house | in n haus | f casa | building
in tower | in m turm | f torre | building
"""

PREPOSITIONS = """
# english | german with dative | spanish | places it goes with ('all' or a flag)
near | bei | cerca de | all
behind | hinter | detrás de | building
in front of | vor | delante de | building
to | zu | a | direction
"""

TIMES = """
# english | german | spanish | tense (present, past or both) | the time that takes its place in the other tense
today | heute | hoy | present | yesterday
now | jetzt | ahora | present | this morning
tonight | heute abend | esta noche | present | last night
this week | diese woche | esta semana | present | last week
this year | dieses jahr | este año | present | last year
every day | jeden tag | todos los días | present | yesterday
every morning | jeden morgen | todas las mañanas | present | this morning
every week | jede woche | todas las semanas | present | last week
yesterday | gestern | ayer | past | today
this morning | heute morgen | esta mañana | past | now
last night | gestern nacht | anoche | past | tonight
last week | letzte woche | la semana pasada | past | this week
last year | letztes jahr | el año pasado | past | this year
two days ago | vor zwei tagen | hace dos días | past | today
in the morning | am morgen | por la mañana | both | -
in the evening | am abend | por la noche | both | -
at noon | am mittag | al mediodía | both | -
on monday | am montag | el lunes | both | -
on sunday | am sonntag | el domingo | both | -
in spring | im frühling | en primavera | both | -
in summer | im sommer | en verano | both | -
in winter | im winter | en invierno | both | -
"""

FEELING_CONTINUATIONS = """
# english adjective | what follows
tired | so go goes went to bed
awake | so sing sings sang a song
happy | so smile smiles smiled
sad | so cry cries cried
angry | so shout shouts shouted
calm | so sleep sleeps slept well
sick | so call calls called the doctor
healthy | so run runs ran every day
nervous | so walk walks walked around
proud | so tell tells told everybody
hungry | so cook cooks cooked dinner
busy | so stay stays stayed at home
worried | so wait waits waited for news
"""
